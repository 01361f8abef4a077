"""`predict`: what decoding will cost on a device, from config.json alone.

May import the rooms below `checks`; `asked.py` and `devices.py` do without torch.

asked.py      the options, checked
devices.py    the table of devices with its sources, and numbers of the user's own
configs.py    finds the config.json that a user means
structure.py  counts a model's parameters, experts and KV bytes on the meta device
passes.py     bytes, FLOPs and roofline seconds of one pass
surface.py    speed-up over α and γ, the least α, the batch at which the gain ends, memory
predict.py    all of it for one model, device and draft, as plain values
page.py       the page that is printed
"""
