"""
Decoders of compressed DICOM pixels.

A damaged file must not end the process, so only decoders that raise errors are used: those of Pillow, pydicom and
imagecodecs, but not GDCM. The size in the header bounds what they allocate.
"""

from __future__ import annotations

import struct
import sys

try:
    import pydicom
    import pydicom.encaps
    from pydicom import uid
    from pydicom.pixels.decoders import base, pillow, rle
except ImportError:
    pydicom = None  # type: ignore[assignment]
try:
    import imagecodecs
except ImportError:
    imagecodecs = None  # type: ignore[assignment]

if pydicom is not None:
    # Formats of compressed images, and the transfer syntaxes that hold them.
    FORMATS = {
        "JPEG": (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
        "lossless JPEG": (uid.JPEGLossless, uid.JPEGLosslessSV1),
        "JPEG-LS": (uid.JPEGLSLossless, uid.JPEGLSNearLossless),
        "JPEG 2000": (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
        "RLE": (uid.RLELossless,),
    }
    # This module is a plugin of pydicom, which asks for this name, `is_available` and a function that decodes.
    DECODER_DEPENDENCIES = {
        syntax: ("imagecodecs",) for name, syntaxes in FORMATS.items() if name != "RLE" for syntax in syntaxes
    }


class UnreadableDicomError(ValueError):
    """Error whose message quotes no private values."""


def get_decoder(syntax: str):
    """
    Return the `pydicom.pixels.Decoder` of a transfer syntax.

    Raises:
        UnreadableDicomError: The transfer syntax is not for images.
    """
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableDicomError("its transfer syntax is not for images") from None
    if decoder.is_native:
        return decoder
    decoder = base.Decoder(decoder.UID)
    for plugin in (pillow, rle, sys.modules[__name__]):
        if decoder.UID in plugin.DECODER_DEPENDENCIES:
            decoder.add_plugin(plugin.__name__, (plugin.__name__, "_decode_frame"))
    return decoder


def is_available(syntax: str) -> bool:
    """Return whether imagecodecs is installed."""
    return imagecodecs is not None


def _decode_frame(frame: bytes, runner) -> bytes:
    decode = {
        "JPEG": imagecodecs.jpeg8_decode,
        "lossless JPEG": imagecodecs.jpeg8_decode,
        "JPEG-LS": imagecodecs.jpegls_decode,
        "JPEG 2000": imagecodecs.jpeg2k_decode,
    }[_parse_header(frame)[0]]
    # CharLS counts zero bits for seconds where JPEG-LS data end in zeros without an end of image.
    pixels = decode(frame + b"\xff\xd9")
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    runner.set_option("planar_configuration", 0)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")
    return pixels.tobytes()


def check_compressed(dataset, syntax: str) -> None:
    """
    Check that the compressed image of a dataset has the format of its transfer syntax, and the size in its header.

    Raises:
        UnreadableDicomError: It has not.
    """
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    name, *size = _parse_header(frame)
    if syntax not in FORMATS[name]:
        expected = next(name for name, syntaxes in FORMATS.items() if syntax in syntaxes)
        raise UnreadableDicomError(f"expected pixels compressed as {expected}, got {name} or damaged data")
    if name == "RLE":
        _check_rle(frame, dataset.Rows * dataset.Columns)
        return
    *shape, bits = size
    expected_shape = [dataset.Rows, dataset.Columns, dataset.SamplesPerPixel]
    if shape != expected_shape or bits > dataset.BitsAllocated:
        found, promised = (f"{columns}x{rows}x{samples}" for rows, columns, samples in (shape, expected_shape))
        raise UnreadableDicomError(
            f"its compressed image has {found} values of {bits} bits, but its header {promised} in "
            f"{dataset.BitsAllocated} bits"
        )


def _parse_header(frame: bytes) -> tuple:
    """Return the format of a compressed image, rows, columns, samples and bits; `("RLE",)` if it is no JPEG."""
    if frame.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        start = frame.index(b"\xff\x4f\xff\x51") + 8
        right, bottom, left, top, samples, bits = struct.unpack_from(">4I16xHB", frame, start)
        return "JPEG 2000", bottom - top, right - left, samples, (bits & 127) + 1
    offset = 2
    while frame.startswith(b"\xff\xd8"):
        marker, length, bits, rows, columns, samples = struct.unpack_from(">HHBHHB", frame, offset)
        if marker == 0xFFFF:  # a fill byte before the marker
            offset += 1
            continue
        if marker < 0xFF00:
            break
        if marker == 0xFFF7:
            return "JPEG-LS", rows, columns, samples, bits
        # Start of a frame: SOF0 to SOF15, except for three other markers in this range.
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return "lossless JPEG" if marker % 4 == 3 else "JPEG", rows, columns, samples, bits
        offset += 2 + length
    return ("RLE",)


def _check_rle(frame: bytes, num_pixels: int) -> None:
    """Check that no segment decodes to much more than a byte per pixel; some are padded (PS3.5, annex G)."""
    offsets = struct.unpack_from("<16I", frame)
    ends = [*offsets[2 : offsets[0] + 1], len(frame)]
    for position, end in zip(offsets[1:], ends):
        decoded = 0
        while position < min(end, len(frame)):
            count = frame[position]
            decoded += count + 1 if count < 128 else (257 - count) % 129
            position += 2 + count if count < 128 else 2 - (count == 128)
            if decoded > 2 * num_pixels + 128:
                raise UnreadableDicomError(f"its RLE data exceed {num_pixels} pixels, could be a decompression bomb")


__all__ = ["UnreadableDicomError", "check_compressed", "get_decoder"]
