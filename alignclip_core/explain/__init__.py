"""What a model looks at, for one image and one label: the paper's figures 1, 4, 7 and 8.

maps.py        the maps as arrays: class-token attention, patch-text similarity of the main and of the D-V branch
pictures.py    a map as colours over the image
explaining.py  explain: an image and a label -> a folder of arrays and pictures, before and after tuning
"""
