"""HypoTest: A/B testing for preforking Python servers."""
