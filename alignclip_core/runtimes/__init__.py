"""What runs an image tower when it serves: torch as it was trained, or something faster that gives the same features.

towers.py           what they have in common
torch_tower.py      torch, in fp32 or with bf16 weights, on a CPU or compiled on a GPU
openvino_tower.py   OpenVINO on a CPU
parity.py           how far a tower's answers are from those of fp32
choosing.py         make_tower: the fastest for this machine that gives the same features
"""
