"""SVG files for the tests of the clip-art corpus."""

RDF = (
    '<metadata><rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<cc:Work rdf:about=""><dc:title>{title}</dc:title>'
    "<dc:description>{description}</dc:description><dc:publisher><cc:Agent><dc:title>The Library</dc:title>"
    "</cc:Agent></dc:publisher></cc:Work></rdf:RDF></metadata>"
)
XMLNS = ' xmlns="http://www.w3.org/2000/svg"'


def make_svg(shape: str, *, title: str = "", description: str = "", xmlns: str = XMLNS) -> bytes:
    """An SVG with an A4 page in millimeters: the unit and the large page are difficult for renderers."""
    meta = RDF.format(title=title, description=description)
    return f'<svg{xmlns} width="210mm" height="297mm" viewBox="0 0 210 297">{meta}{shape}</svg>'.encode()


def make_square(color: str, *, x: int = 40, y: int = 50, side: int = 20) -> str:
    return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{color}"/>'
