"""Synthesis of abdominal lymph nodes in CT (LN-DDPM, arXiv 2403.17770): a library and the command `lnsynth`."""

__version__ = "0.1.0"
