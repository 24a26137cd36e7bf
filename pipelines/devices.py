"""Where a pipeline runs."""

from __future__ import annotations

import torch


def as_device(device: int | str | torch.device | None) -> torch.device:
    """Return the device meant: a number of a GPU, -1 for the CPU, a name, or None for the first GPU there is, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, 0)
    if isinstance(device, int) and not isinstance(device, bool):
        found = torch.device("cpu") if device < 0 else torch.device(accelerator.type if accelerator else "cuda", device)
    else:
        try:
            found = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device={device!r} is not a device: {error}") from None
    count = torch.accelerator.device_count() if accelerator else 0
    here = ["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator)]
    if found.type not in ("cpu", "meta") and str(found) not in here and not (found.index is None and count):
        raise ValueError(
            f"device={device!r} is not on this machine, which has {', '.join(here)}; leave device out for {here[-1]}."
        )
    return found
