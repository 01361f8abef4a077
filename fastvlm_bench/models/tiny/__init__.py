"""The embedded vision-language model: a rendered world, its language, the training script and the checkpoint."""
