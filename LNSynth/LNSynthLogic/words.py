"""Text for people: translated inside Slicer, as it is outside."""

try:
    from slicer.i18n import tr as _
except ImportError:  # slicer-core has no translations
    def _(text: str) -> str:
        return text

__all__ = ["_"]
