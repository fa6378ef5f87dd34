"""SimpleITK's images as volumes: another reader to compare ours with."""

import numpy as np
import SimpleITK as sitk

from LNSynthLib.images.itk_files import affine_of
from LNSynthLib.images.volume import Volume


def from_sitk(image) -> Volume:
    """A 3D scalar image; floating point becomes float32."""
    array = sitk.GetArrayFromImage(image).T
    return Volume(np.ascontiguousarray(array, dtype=np.float32 if array.dtype.kind == "f" else None), affine_of(image))
