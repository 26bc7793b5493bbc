from capfilt.pipeline.cli.app import main

main()
