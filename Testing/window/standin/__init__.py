"""A small stand-in for 3D Slicer's desktop: the real widget and .ui in a real Qt window, no Slicer.

Real: the MRML scene and logics (slicer-core), Qt's widgets, event loop and .ui loader (PySide6),
`slicer.util`, and the module's own code, unmodified. Imitated, as far as this module uses them:
PythonQt's properties as attributes (`pythonqt`), a few ctk and qMRML widgets (`widgets`), the
classes behind a scripted module (`scripted`), the application object (`application`). Not there:
slice and 3D views, OpenGL, layouts, other modules, Extensions Manager. So a window test shows that
the panel works as written, not how Slicer paints its views.

With the environment variable SLICER_SOURCE set to a checkout of Slicer, its own
ScriptedLoadableModule.py, parameterNodeWrapper and i18n.py are used instead of `scripted`.
"""
