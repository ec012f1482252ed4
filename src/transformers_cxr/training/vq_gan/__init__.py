"""Losses, discriminator, codebook and images of VQ-GAN training."""

from ..._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".checkpoints": ("last_checkpoint", "save_checkpoint"),
        ".codebook": ("CodebookManager",),
        ".discriminator": ("PatchDiscriminator",),
        ".images": ("ImageDataset", "ImageStream", "load_training_images"),
        ".losses": (
            "AutoencoderLoss",
            "EfficientNetLiteDistance",
            "PerceptualLoss",
            "adaptive_weight",
            "hinge_loss",
            "load_autoencoder_loss",
            "load_lpips",
            "load_perceptual_network",
            "random_crops",
            "reconstruction_loss",
            "spectral_loss",
        ),
    },
)
