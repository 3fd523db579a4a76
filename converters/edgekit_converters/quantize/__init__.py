"""Float models to 8-bit integers, one module a format; both start from one `CalibrationSet`."""
