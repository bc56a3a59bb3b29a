"""Full-parameter fine-tuning without Ray: a recipe and examples in, a model folder out. Importing this loads no torch.

recipe.py says what is to be done, batches.py in which order, sft.py does it, export.py writes the model's folder.
model_size.py and memory.py say beforehand what a training will hold in memory.
"""
