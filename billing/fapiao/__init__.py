"""e-fapiao (数电发票): what the tax platform is asked for, and what it answered.

The 20-digit number is the platform's; our invoice numbers have nothing to do with it. A top-up is
invoiced when it is used, with the bill of its period, and never when it is paid: only an invoice
can be asked for, and each once.
"""
