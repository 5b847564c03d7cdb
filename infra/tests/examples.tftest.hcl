# The examples plan.

mock_provider "aws" {
  source = "./tests/mocks"
}

run "minimal" {
  command = plan

  module {
    source = "./examples/minimal"
  }
}

run "complete" {
  command = plan

  module {
    source = "./examples/complete"
  }
}

run "existing_topic" {
  command = plan

  module {
    source = "./examples/existing-topic"
  }
}
