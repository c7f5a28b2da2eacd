"""Tensor maths: spectral operators, time steppers, Lyapunov exponents."""
