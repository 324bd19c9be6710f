"""What a training costs: by count, as a bound of the device, as a prediction, and as measured part by part."""
