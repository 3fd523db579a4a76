"""Files that people have, as tensors that models take: pictures, sound; imports no engine."""
