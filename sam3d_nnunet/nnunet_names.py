"""Earlier name of `sam3d_nnunet.nnunet.names`, which files import that an earlier `sam3d register` wrote into nnunetv2.

Those files work until `sam3d register` replaces them. Import `sam3d_nnunet.nnunet.names` instead.
"""

from sam3d_nnunet.nnunet.names import class_lookup as class_lookup
