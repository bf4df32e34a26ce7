"""What accuracy is lost: formats applied to a network, calibration, sensitivity, fine-tuning, evaluation."""
