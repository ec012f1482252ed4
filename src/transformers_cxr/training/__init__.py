"""Training of the VQ-GAN and of the language model."""
