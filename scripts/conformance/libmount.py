"""The part of libmount's Python interface that crun's test_mounts.py calls, over the C library itself.

Debian packages the library without its Python module; the module is this thin in the original as well.
"""

import ctypes

_library = ctypes.CDLL("libmount.so.1")
_library.mnt_new_table_from_file.restype = ctypes.c_void_p
_library.mnt_new_table_from_file.argtypes = [ctypes.c_char_p]
_library.mnt_table_find_target.restype = ctypes.c_void_p
_library.mnt_table_find_target.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
for _name in ("mnt_fs_get_vfs_options", "mnt_fs_get_fs_options"):
    getattr(_library, _name).restype = ctypes.c_char_p
    getattr(_library, _name).argtypes = [ctypes.c_void_p]

MNT_ITER_BACKWARD = 1


class Fs:
    """One line of a mount table."""

    def __init__(self, pointer):
        self._pointer = pointer

    @property
    def vfs_options(self):
        return (_library.mnt_fs_get_vfs_options(self._pointer) or b"").decode()

    @property
    def fs_options(self):
        return (_library.mnt_fs_get_fs_options(self._pointer) or b"").decode()


class Table:
    """A mount table read from a file in mountinfo's form. It lives as long as the program."""

    def __init__(self, path):
        self._pointer = _library.mnt_new_table_from_file(path.encode())
        if not self._pointer:
            raise OSError(f"libmount cannot read {path}")

    def find_target(self, target):
        found = _library.mnt_table_find_target(self._pointer, target.encode(), MNT_ITER_BACKWARD)
        if not found:
            raise KeyError(target)
        return Fs(found)
