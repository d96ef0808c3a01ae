"""Scene understanding: segmentation, depth and surface normals of images, whatever the data set."""
