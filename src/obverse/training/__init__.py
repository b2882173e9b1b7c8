"""What a model is taught from: objects, pictures of them, and the loop that fits weights to them."""
