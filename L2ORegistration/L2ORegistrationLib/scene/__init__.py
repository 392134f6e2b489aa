"""Registration between nodes of a MRML scene: no Qt, no application, testable anywhere.

Everything outside this package is in LPS; only ``transforms.ras_lps`` crosses over. What Slicer's
console sees is camelCase, the rest PEP 8. Wrong input raises InputError with a sentence for users.

settings    Settings: nodes and options; problem() says why Register is disabled
logic       SceneLogic: the module's logic; start(), register(), applyTo(), evaluate(), ...
run         Run: one registration in progress; poll() it, cancel(), then read its outcome
tasks       Task: what takes long, cut into what a thread does and what the scene gets
            BackgroundRun: a job that the scene follows, what Run and SequenceRun share
outputs     inverse, ventilation maps, partners of points, volumes of segments as nodes
products    warped volume, Jacobian determinant and checkerboard of the iteration shown
quality     TG-132's rows as a table node
following   FollowingLogic: what the console calls of these
correction  Continuation: a Run that goes on from a result, pulled by landmark pairs; undo()
session     Session: what is stepped through: history, preview and curve on the same iteration
history     History: a sequence of displacement grids whose proxy is the output transform
preview     Preview: the moving volume shown warped, on a copy, at any strength
curve       Curve: chart of dissimilarity and landmark error, with a marker
landmarks   markups in pairs, their errors as tables and coloured lines
display     slice layers, side by side, flicker, checkerboard, deformation grid, Jacobian colours
lung_grid   LungGrid: the deformation grid near the lungs only
volumes     volume and segmentation nodes to Volumes and back, warping
transforms  displacement fields to transform nodes and back
sample      the breathing phantom as nodes
sequence    SequenceRun: the phases of a 4DCT in a sequence browser, registered in step with it
browsers    a 4DCT's sequence browser: phases in, a sequence of transforms beside them
breathing_sample    the breathing phantom in ten phases as nodes
nodes       conveniences for nodes
"""
