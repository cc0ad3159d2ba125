"""What runs an image tower when it serves: torch as it was trained, or something faster that gives the same features.

towers.py           what they have in common
torch_tower.py      torch, in fp32 or with bf16 weights, on a CPU or compiled on a GPU
"""
