"""The HTTP data plane: requests in, predictions out; every one behind one gate, logged before it is answered."""
