"""How a pretrained network is tuned: what trains, when, and at which learning rate."""
