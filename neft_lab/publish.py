def publish(plan, status, folder, console):
    console.print("published")
