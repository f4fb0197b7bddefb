"""What is looked at: pages and pictures made of the loop's documents. They decide nothing."""
