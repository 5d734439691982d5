"""The network: encoders, fusion transformer and heads."""
