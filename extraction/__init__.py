"""Feature maps of whole folders of images: finding the images, computing, storing, reading back, and pictures."""
