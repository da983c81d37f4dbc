"""What tests in a lab machine share: a real agent, load on the target, comparisons with LIO."""
