"""The machine: clock, memory, energy, what slows it down, how it fails.

The lowest room: may import only `sampling` and `errors`.

clock.py        seconds, synchronised with the device
memory.py       the peak of memory of a span, and its parts
energy.py       joules of blocks: by NVML, or by RAPL on a CPU
conditions.py   what slowed the machine down while it measured
stalls.py       measurements in which the process did not run
nvml.py         one NVIDIA device
environment.py  where a run was made
limits.py       threads and memory as environment and container limit them
doctor.py       `doctor`: the same in words, with advice
roofline.py     the bandwidth and FLOP/s that it reaches
failures.py     what may go wrong with one sample, and what ends the run
"""
