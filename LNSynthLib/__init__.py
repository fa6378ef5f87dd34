"""Synthesis of abdominal lymph nodes in CT (LN-DDPM, arXiv 2403.17770): a library and the command `lnsynth`.

`import LNSynthLib as ln` gives the functions of `LNSynthLib.api`, which are imported when the first of them is used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "InsertSettings", "LNSynthError", "LoadedGenerator", "SyntheticCT", "Volume", "add_nodes", "insert",
    "load_generator", "make_phantom", "make_variants", "measure_nodes", "read_anatomy", "read_ct", "read_nodes",
    "score_nodes", "synthesize", "vary_nodes", "write",
]

if TYPE_CHECKING:
    from .api import (
        InsertSettings,
        LNSynthError,
        LoadedGenerator,
        SyntheticCT,
        Volume,
        add_nodes,
        insert,
        load_generator,
        make_phantom,
        make_variants,
        measure_nodes,
        read_anatomy,
        read_ct,
        read_nodes,
        score_nodes,
        synthesize,
        vary_nodes,
        write,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"LNSynthLib has no {name}; it has {', '.join(__all__)}.")
    from . import api  # torch and all else

    return getattr(api, name)
