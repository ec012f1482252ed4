import torch

from transformers_cxr.training import augment


def test_images_are_rotated_scaled_and_recolored_within_the_limits():
    torch.manual_seed(0)
    ramp = torch.linspace(-0.3, 0.3, 128).expand(200, 1, 128, 128)
    augmented = augment(ramp)
    assert augmented.shape == ramp.shape and augmented.abs().max() <= 1
    # Far from the borders the image is a plane: its slope has the rotation, its steepness scale and contrast.
    center = augmented[:, 0, 56:72, 56:72]
    across, down = center.diff(dim=2).mean(dim=(1, 2)), center.diff(dim=1).mean(dim=(1, 2))
    angles = torch.atan2(down, across).rad2deg()
    assert -10.1 < angles.min() < -8 and 8 < angles.max() < 10.1
    steepness = torch.hypot(across, down) / (0.6 / 127)
    assert 0.7 < steepness.min() < 0.8 and 1.2 < steepness.max() < 1.33
    # Brightness and shift.
    gray = center.mean(dim=(1, 2))
    assert -0.24 < gray.min() < -0.18 and 0.18 < gray.max() < 0.24
