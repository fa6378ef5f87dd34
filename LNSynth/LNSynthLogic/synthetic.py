"""The marks of synthetic volumes in the scene."""

import json

SYNTHETIC = "LNSynth.Synthetic"    # attribute of every node that shows what no scanner saw


PROVENANCE = "LNSynth.Provenance"  # attribute: how it was made, JSON


HEADER = "LNSynth.Header"          # attribute: what the header of each file of the node says, as of its first one


def mark_synthetic(node, provenance: dict) -> None:
    """Says in the node's name and attributes that no scanner saw this, and how it was made."""
    if not (node.GetName() or "").startswith("SYNTHETIC "):
        node.SetName(f"SYNTHETIC {node.GetName() or ''}".rstrip())
    node.SetAttribute(SYNTHETIC, "1")
    node.SetAttribute(PROVENANCE, json.dumps(provenance, default=str))


def is_synthetic(node) -> bool:
    return node.GetAttribute(SYNTHETIC) == "1"


def provenance_of(node) -> dict:
    """What `mark_synthetic` wrote; empty where the node has none, or a scene's file holds something else there."""
    try:
        said = json.loads(node.GetAttribute(PROVENANCE) or "{}")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
