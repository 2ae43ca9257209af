"""Models for use elsewhere: ONNX, torch.export, safetensors, Hugging Face; each compared after writing."""
