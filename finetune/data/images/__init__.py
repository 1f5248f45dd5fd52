"""Images: from files of any depth and number of bands to uint8 tensors."""
