"""The checks of the contract, by what they look at: form, feed, values, shape, leaks."""
