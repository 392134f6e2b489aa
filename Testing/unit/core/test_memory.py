"""Memory that is left is known on every system."""

import ctypes
import sys
from types import SimpleNamespace

from L2ORegistrationLib.core import memory


def test_free_memory_is_less_than_all_there_is(monkeypatch):
    free = memory.free_mb()
    monkeypatch.setattr(memory, "_listed", unknown)  # as on macOS
    assert 0 < free <= memory.free_mb()


def test_windows_is_asked_in_its_own_way(monkeypatch):
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX, as Windows documents it."""

        _fields_ = [
            ("dwLength", ctypes.c_uint32),
            ("dwMemoryLoad", ctypes.c_uint32),
            ("ullTotalPhys", ctypes.c_uint64),
            ("ullAvailPhys", ctypes.c_uint64),
            ("ullTotalPageFile", ctypes.c_uint64),
            ("ullAvailPageFile", ctypes.c_uint64),
            ("ullTotalVirtual", ctypes.c_uint64),
            ("ullAvailVirtual", ctypes.c_uint64),
            ("ullAvailExtendedVirtual", ctypes.c_uint64),
        ]

    def answer(pointer):
        status = ctypes.cast(pointer, ctypes.POINTER(Status)).contents
        if status.dwLength != ctypes.sizeof(Status):
            return 0
        status.ullTotalPhys, status.ullAvailPhys = 16 << 30, 5 << 30
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=answer)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(memory, "_listed", unknown)
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory.free_mb() == 5 << 10


def unknown(*_):
    raise FileNotFoundError
