"""An instructor's reply as samples.  text -> pieces"""
