"""Registration between nodes of a MRML scene: no Qt, no application, testable anywhere.

Everything outside this package is in LPS; only ``transforms.ras_lps`` crosses over.
Names that Slicer's console sees are camelCase, the rest is PEP 8. Wrong input raises InputError,
whose message is shown to the user as it is.

settings.Settings(fixed=None, moving=None, fixedMask=None, movingMask=None, fixedLandmarks=None,
        movingLandmarks=None, initialTransform=None, outputTransform=None, outputVolume=None,
        outputJacobian=None, method="l2o", model=None, iterations=None, start="affine",
        device="auto", threads=None)
    All nodes and options of one registration. A mask is a label-map volume node, a segmentation
    node (all its segments) or a pair (segmentation node, segment ID or name); None: automatic.
    .problem() -> str           "" or the sentence that says why Register is disabled; cheap
    .engine_arguments() -> dict  what engine.registration.Registration takes; InputError

logic.SceneLogic                mix-in for the module's logic class
    .start(settings) -> Run                                   worker thread; then call run.poll()
    .register(fixed, moving, fixedMask=None, movingMask=None, initialTransform=None,
        outputTransform=None, outputVolume=None, method="l2o", iterations=None, device="auto",
        onStep=None, **others) -> Outcome                     synchronous; others: Settings' fields;
                                                              onStep(step) may return False to stop
    .applyTo(nodes, transform) -> list of nodes               put under the transform (their linear
                                                              parents stay between where possible)
    .copyAsPython(settings) -> str                            the exact call of register()
    .addDisplacementFieldNode(array, ijkToRAS, name="Displacement field", lps=False) -> node
    .keepIteration(transform, index=None) -> node             detached copy; None: the shown one
    .updateOutputs(transform, outputVolume=None, outputJacobian=None)   from the shown iteration
    .evaluate(transform, fixedLandmarks, movingLandmarks) -> landmarks.Evaluation
    .restore(transform) -> Session | None                     after loading a scene: its iterations

run.Run                          one registration in progress; all calls on the main thread
    .poll() -> list of job events (Step, Finished, Failed), after the scene was brought up to date
    .cancel()    .active: bool    .progress: job.Progress (fraction, text, elapsed, remaining)
    .session: Session | None     there after the first Step
    .outcome: Outcome | None     there after Finished
run.Outcome                      transform, browser, metrics (list of dict, one per iteration),
                                 volume, jacobian, result (engine Result), cancelled

session.Session                  what the user steps through: history + preview + curve
    .history  .preview  .curve  .select(index)  .strength (0..1, settable)  .close()

history.History                  the iterations of one output transform
    History.create(transform, ...)   History.of(transform) -> History | None
    .transform (proxy)  .browser  .sequence  len()  .index (settable)  .metrics() -> list of dict
    .append(step, **metrics)  .field(index) -> DisplacementField  .keep(index, name=None) -> node
    .result (settable: index of the iteration that is the result)

preview.Preview                  the moving volume shown warped, without touching the moving volume
    Preview(moving, transform)   .volume  .strength (settable)  .remove()
curve.Curve                      table, series and chart of dissimilarity and TRE; marker follows
    Curve.of(history)  .chart  .table  .update()
display: showBlend(background, foreground, opacity=0.5), showSideBySide(fixed, warped),
    flicker(), setGridVisible(transform, visible, mode="grid"), jacobianVolume(field, ...),
    checkerboard(fixed, warped, name=None) -> volume node
landmarks: pairs(fixedNode, movingNode, ignoring=None) -> Pairs(labels, fixed, moving),
    Evaluation(.before, .after, .snapped: (N,) mm; .summary: dict; .table, .lines: nodes)
volumes: to_volume(node), mask_to_volume(mask), set_volume(node, volume), warp(...)
transforms: ras_lps(values), set_field(node, field), field_of(node, grid=None)
sample.addPhantomPair() -> dict of nodes: fixed, moving, fixedLandmarks, movingLandmarks
"""
