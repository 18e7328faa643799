"""How likely tokens are: a policy and a critic over a Hugging Face model, and the batches that go through them."""
