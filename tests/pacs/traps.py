"""A step of a bundle's preparation that crashes, hangs or eats memory, by the number of slices of the image."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from monai.transforms import MapTransform

CRASHES, ENDS, HANGS, EATS, GRABS = 9, 10, 11, 13, 14
"""Numbers of slices."""
MARKED = "3599.25"
"""Seconds that a program sleeps which is started by what hangs; it is known by them."""


class Trapd(MapTransform):
    """Gives images on as they are, unless their number of slices is one of the above."""

    def __call__(self, data):
        for key in self.keys:
            spring(data[key].shape[-1])
        return data


def spring(slices: int) -> None:
    if slices == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if slices == ENDS:
        os._exit(3)
    if slices == HANGS:
        subprocess.Popen(["sleep", MARKED])
        time.sleep(3600)
    if slices == EATS:
        eaten = []
        while True:
            eaten.append(bytearray(b"x" * 2**24))
    if slices == GRABS:
        bytearray(2**33)  # no page of it is touched
