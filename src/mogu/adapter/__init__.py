"""What MoGU adds to a model: the routed layer, its routers, putting it in and out, and the folder on disk."""
