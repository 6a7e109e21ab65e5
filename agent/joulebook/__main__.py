from joulebook.cli import main

main()
