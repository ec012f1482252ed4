import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/transformers_cxr/__init__.py").read_text(), re.MULTILINE)[1]

# transformers 5.23 and diffusers 0.42 are the oldest that the package is tested with; most other bounds are those that
# these two set themselves.
INSTALL_REQUIRES = [
    "accelerate>=1.1",  # `from_pretrained(device_map=...)`
    "diffusers>=0.42",
    "huggingface-hub>=1.32",
    "numpy>=1.26",
    "pillow>=10.0.1",
    "safetensors>=0.8",
    "tokenizers>=0.23.1",
    "torch>=2.6",
    "transformers>=5.23",
]
EXTRAS_REQUIRE = {
    "train": ["pyyaml>=5.1", "tqdm>=4.60"],
    "test": ["datasets>=5.2", "peft>=0.21", "pytest>=9", "ruff>=0.17", "torchvision>=0.21"],
}

setup(
    name="transformers-cxr",
    version=VERSION,
    description="LLM-CXR for Hugging Face Transformers: one causal language model that reads and writes chest X-rays",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The transformers-cxr authors",
    keywords="chest x-ray radiology report generation image generation vqgan multimodal transformers",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"transformers_cxr": ["checkpoints/**"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
