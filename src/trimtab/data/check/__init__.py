"""Looking at contrast pairs: what is wrong with them, and what a vector might learn in the concept's place."""
