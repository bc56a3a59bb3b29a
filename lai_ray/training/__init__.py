"""Full-parameter fine-tuning without Ray: a recipe and examples in, a model folder out. Importing this loads no torch.

recipe: the settings and the job file.  sequences: tokenized examples.  objectives/: what is learned, and its loss.
batches: the order of steps.  loop: the training.  checkpoints: resuming.  export: the model's folder.
memory, model_size: what a training will hold in memory.
"""
