"""A model as other libraries read it. Imports nothing here, so that the names of the formats load no torch.

formats.py       the formats' names (no torch)
fitness.py       which format can hold which architecture; reads no weights
exporting.py     export_model: any format, written aside and renamed
open_clip_folder.py, hugging_face.py, onnx_graph.py    one format each
"""
